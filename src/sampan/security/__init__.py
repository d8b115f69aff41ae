"""What a container may do: capabilities, seccomp, AppArmor."""
