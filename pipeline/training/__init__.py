"""How the Trainer trains: frozen features once, then the head and the base's last layers."""
