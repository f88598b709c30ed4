"""Networks u(z, r, t, cond)."""
