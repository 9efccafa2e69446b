"""Parts that methods other than LoRA insert into a network: bottleneck adapters and prefixes."""
