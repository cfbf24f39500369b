"""What training costs: the criterion, the step, its growth with the processes, its memory."""
