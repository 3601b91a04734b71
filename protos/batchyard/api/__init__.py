"""Generated messages and stubs; edit the .proto files and run `make proto`."""
