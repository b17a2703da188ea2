"""What a policy says, in words: a sentence, where two differ, what shadows it, what is hardly meant. Pure."""
