"""From the energy on the host to masks and transport plans; one backend a module."""
