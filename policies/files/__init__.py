"""The policy file: from text to policies and back, and all that is wrong with it, each with its place and the mend."""
