"""The command `mountstore`: each module a group of subcommands, loaded when one of them is called."""
