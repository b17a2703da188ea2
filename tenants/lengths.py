"""How many characters names may have: one constant for a kind of name, for the API, columns, forms and files alike."""

# What applications name: their users, features, plans and runs, and the models and providers they call.
NAME_LENGTH_MAX = 255
REQUEST_ID_LENGTH_MAX = 128
# What the staff names: tenants, API keys, policies.
TITLE_LENGTH_MAX = 100
SLUG_LENGTH_MAX = 50
