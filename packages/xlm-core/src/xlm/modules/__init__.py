"""Building blocks of networks: rotary transformer, DDiT, attention, KV cache, chunked cross-entropy."""
