"""The paper's experiments: `python -m experiments`, in a checkout.

They need `pip install '.[experiments]'`.
"""
