"""The parts of the quick-select (hw/datapath/quick_select.py)."""
