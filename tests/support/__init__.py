"""What tests share: tiny checkpoints and reporters. No tests here."""
