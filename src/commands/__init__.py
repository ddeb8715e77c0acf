"""What the commands do: each module has `main(argv)`, which gives the exit code. `cli` names them."""
