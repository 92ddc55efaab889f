"""The data's way: from packed sectors to operands, scores, probabilities, outputs, and importance."""
