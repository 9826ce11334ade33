"""People as judges: sheets and a page to rate pairs blind, and how far raters agree."""
