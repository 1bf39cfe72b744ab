"""Configuration for a server behind nginx that systemd starts on demand; each file says where it belongs."""
