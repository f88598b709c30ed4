"""Which networks there are: u(z, r, t, cond), with their own tangents."""
