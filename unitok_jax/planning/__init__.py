"""What a recipe needs of a pod, found out by compiling it for chips that are not there."""
