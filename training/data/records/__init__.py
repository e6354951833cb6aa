"""Mixed tables as users have them: numbers, categories and dates, with missing cells."""
