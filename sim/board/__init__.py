"""Boards, simulated from the pins of their serial line to those of their memory."""
