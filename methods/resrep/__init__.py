"""ResRep, remembering and forgetting (Ding et al., ICCV 2021)."""
