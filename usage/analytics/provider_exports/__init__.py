"""The exports of providers, read as they publish them: what they billed a day, by model. Pure."""
