"""What measures speed: who is timed, in which order, by which processes, and what the seconds come to."""
