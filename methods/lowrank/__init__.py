"""Low rank: a layer as two or three thinner ones, along the directions that its inputs and outputs use."""
