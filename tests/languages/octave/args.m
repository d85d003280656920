cellfun(@disp, argv());
