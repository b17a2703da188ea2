"""Policy replay: what other policies would have decided of the calls of a past period.

    past_calls    the calls: the ledger's rows and the blocked ones, in the order of time
    simulation    counters in memory, and the code of evaluate that resolves and decides
    comparing     what was decided against what is, call by call
    versions      the policies that were in force then
    tally         what became different, counted and explained
    report        the document that says it
    suggesting    amounts for a limit, from what was used
    replay        from an environment, policies and a period to the report
    jobs          replays that are stored, run by a worker, and have an address

A block leaves more of a limit for later calls, so calls are not judged one by one: each meets what the replay counted
before it. What cannot be known of the past is said in the report (`report.ASSUMPTIONS`).
"""
