"""The parts of the job control (hw/control/job_control.py): a job's beginning and its end."""
