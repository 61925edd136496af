"""The parity ladder: what is compared, how closely, and on which networks. Must not import a framework or a twin."""
