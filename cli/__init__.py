"""The command line: one thin file a subcommand. It parses, calls the library, and prints."""
