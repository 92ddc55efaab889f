"""The parts of the token importance unit (hw/datapath/token_importance.py)."""
