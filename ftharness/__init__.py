"""ftharness."""
