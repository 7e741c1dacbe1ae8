"""The networks, and the layers that make them faster or synchronise them."""
