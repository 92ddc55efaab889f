"""What circuit and software both follow, without an HDL: sizes, jobs, row formats, registers. Imports no other room."""
