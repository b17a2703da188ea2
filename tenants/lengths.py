"""The longest names, in characters: one constant for each kind, used by the API, columns, forms and files."""

# What applications name: their users, features, plans and runs, and the models and providers they call.
NAME_LENGTH_MAX = 255
REQUEST_ID_LENGTH_MAX = 128
# What the staff names: tenants, API keys, policies.
TITLE_LENGTH_MAX = 100
SLUG_LENGTH_MAX = 50
# Why somebody was blocked, boosted or frozen.
REASON_LENGTH_MAX = 200
