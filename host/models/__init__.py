"""BERT and GPT-2 in NumPy, and the checkpoint folders that they are read from."""
