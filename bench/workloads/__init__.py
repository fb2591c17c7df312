"""What is measured, one workload a file: each turns a slot of the schedule into readings."""
