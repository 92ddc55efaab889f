"""What a board adds to the accelerator: the controller of its memory."""
