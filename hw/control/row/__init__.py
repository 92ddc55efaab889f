"""The parts of row control and of the readers: which query rows meet which keys and values, and when."""
