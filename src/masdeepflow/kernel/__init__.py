"""The kernel side as Python sees it: the programs loaded, their ring mapped, their layouts read."""
