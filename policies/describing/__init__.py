"""What a policy says, and what became of a call, in words: a sentence, two that differ, what is hardly meant. Pure."""
