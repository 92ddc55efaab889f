"""What the models are used for here: the demo, the fidelity measurement, and the training of the small language
model."""
