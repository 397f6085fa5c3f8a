"""What people see of a sweep: its status and its report."""
