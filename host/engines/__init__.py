"""What computes a model's attention: float, the golden model, or an accelerator."""
