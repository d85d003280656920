<?php
echo "« ", trim(fgets(STDIN)), " »\n";
