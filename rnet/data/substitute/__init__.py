"""Where the attacker's images come from: the victim's data set, or another one."""
