"""What is known of a sweep's cells: submissions, attempts and states, as files beside the store."""
