"""Other runtimes behind the contract of `isolation.api`, one small file each."""
