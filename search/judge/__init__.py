"""How a choice is judged: batch norm measured anew, a short fine-tune, a look at held-out images."""
