"""`platen baselines compare`: the ladder of models from a bag of words to Llama on a text of the user's."""
