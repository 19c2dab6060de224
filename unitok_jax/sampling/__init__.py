"""From logits to codes: filters, guidance, draws."""
