"""Generated and damaged input against everything that reads input: requests, files, frames, rows, arguments."""
