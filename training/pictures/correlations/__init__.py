"""Pictures of the residuals' correlations between times: against the lag, and as matrices."""
