"""Studies: many trainings whose results decide what the product recommends. Each goes on where it stopped."""
