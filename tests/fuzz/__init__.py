"""Long and short fuzzing: structures against an oracle, files within limits."""
